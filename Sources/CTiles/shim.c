// Everything is inlined from the header.
