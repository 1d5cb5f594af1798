//! slackline-data
