"""The parallel, resumable pipeline from a dump to an indexed dataset."""
