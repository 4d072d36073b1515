//! The gateway over real sockets, in front of small servers that record what they get.

mod around;
mod audit;
mod auth;
mod endpoints;
mod gates;
mod http;
mod kills;
mod legacy;
mod limits;
mod metadata;
mod modern;
mod moves;
mod observed;
mod rates;
mod readers;
mod rest;
mod rules;
mod shutdown;
mod slow;
mod support;
mod trials;
mod uploads;
