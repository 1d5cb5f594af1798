//! slackline
