"""The scanner from wikitext to paragraphs: one source that runs interpreted or compiled by Cython.

The ``.py`` files are plain Python. The ``.pxd`` file beside each of them has the C types of its classes and functions,
which Python never reads. ``setup.py`` joins all files into one module, ``scanner_compiled``, so that C can inline
across them; :mod:`megatron_pz.wikitext.scanner_form` chooses between the two forms. Therefore the modules of this
package import each other relatively and everything else absolutely, and no two of them use one name for different
things.
"""
