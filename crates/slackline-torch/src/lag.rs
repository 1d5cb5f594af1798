//! The alltoallv of bounded lag.
