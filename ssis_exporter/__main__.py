"""`python -m ssis_exporter` is `ssis-exporter`."""

from ssis_exporter.cli import main

if __name__ == "__main__":
    main()
