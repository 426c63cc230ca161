"""What a configuration must keep to, field by field and together; each rule with the complaint that a user reads."""
