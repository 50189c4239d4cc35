//! Processes without a store: what they say, and what becomes of it in every order.

#![allow(missing_docs, reason = "tests")]

mod order_fulfilment;
mod transfer;
