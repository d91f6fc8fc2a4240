"""The module's logic: Python 3.9 and its standard library, without Slicer and Qt, so that it runs in any test."""
