//! slackline-collective
