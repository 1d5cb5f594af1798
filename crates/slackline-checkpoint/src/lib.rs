//! slackline-checkpoint
