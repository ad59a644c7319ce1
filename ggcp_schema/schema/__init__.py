"""The layouts of the files. The fields are named as in the programs and specifications that define them."""
