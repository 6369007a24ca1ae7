"""A TDS server for the tests: real sockets, the real protocol, and the query text it is sent is executed."""
