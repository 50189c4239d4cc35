//! What the clones of a bus share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lapin::Channel;

use crate::{link::Link, options::RabbitMqOptions, reading::Reading};

/// What the clones of a bus share.
pub struct Inner {
    pub publishing: Link,
    pub reading: Link,
    pub options: RabbitMqOptions,
    /// The topics that are made, with their partitions.
    pub topics: Mutex<HashMap<String, u16>>,
    /// Channels that no publisher uses just now.
    pub idle: Mutex<Vec<Channel>>,
    /// What is being read.
    pub readings: Mutex<Readings>,
}

#[derive(Default)]
pub struct Readings {
    pub last: u64,
    pub open: HashMap<u64, Arc<Reading>>,
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
