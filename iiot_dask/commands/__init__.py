"""Commands that fill a file each; `cli` binds them in. Heavy modules load inside the command that needs them."""
