"""The catalog source against a real SQL Server that holds SSISDB-shaped tables (there is no SSIS on Linux)."""
