//! slackline-dlrm
