//! slackline-bench
