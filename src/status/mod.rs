//! The status report, its unix socket server and client.
