"""What several adapters share and no stage needs: kernels for text, tables of byte strings, doors for what is pushed to us.

No adapter itself: nothing here has an entry point, and an adapter in a package of its own needs none of it.
"""
