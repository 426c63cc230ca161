"""The scanner from wikitext to paragraphs: one source that runs interpreted and that Cython compiles.

The ``.py`` files are plain Python. The ``.pxd`` beside each of them gives the C types of its classes and functions,
which Python never reads. ``setup.py`` joins them all into one module, ``scanner_compiled``, for C to inline across;
:mod:`megatron_pz.wikitext.scanner_form` chooses between the two forms. So the modules here import one another
relatively and everything else absolutely, and no two of them use one name for two things.
"""
