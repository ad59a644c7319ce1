"""`python -m ggcp_schema`."""

from ggcp_schema.cli import main

main()
