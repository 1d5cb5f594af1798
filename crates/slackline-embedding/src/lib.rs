//! slackline-embedding
