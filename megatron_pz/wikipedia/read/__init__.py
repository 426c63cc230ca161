"""Read a dump: decompression, XML, pages and articles."""
