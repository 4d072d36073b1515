//! Clients of both eras that check every answer.
