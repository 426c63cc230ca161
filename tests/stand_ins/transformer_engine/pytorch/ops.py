"""Names in Megatron-Core's annotations."""


class Sequential:
    pass


class FusibleOperation:
    pass
