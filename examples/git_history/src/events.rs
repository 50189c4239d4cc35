//! What can happen to a path and to a repository, and the tables made of it.

use std::fmt;

use eventstore::{Timestamp, prelude::*};
use serde::{Deserialize, Serialize};

use crate::path;

/// What a commit did to a path.
#[derive(Event, Clone, Debug)]
pub enum PathEvent {
    Added {
        mode: String,
        object: String,
        /// The path, percent-encoded, where it is too long to be the key of a stream.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    Modified {
        mode: String,
        object: String,
    },
    Removed,
}

impl fmt::Display for PathEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { mode, object, .. } => write!(f, "added {mode} {object}"),
            Self::Modified { mode, object } => write!(f, "modified {mode} {object}"),
            Self::Removed => f.write_str("removed"),
        }
    }
}

/// The id of a commit: 40 or 64 hexadecimal digits.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(transparent)]
pub struct CommitId(pub String);

impl CommitId {
    /// How many digits a commit is looked up by.
    pub const SHORT: usize = 7;

    /// The beginning, by which it is tagged.
    pub fn short(&self) -> &str {
        self.0.get(..Self::SHORT).unwrap_or(&self.0)
    }
}

/// The beginning of the id, as git shows it.
impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// That a commit was imported: the last event of its append, so that a commit without changes has a place too. Tagged by
/// the beginning of the commit's id, so that it is found by that without reading the others.
#[derive(Event, Clone, Debug)]
pub enum RepositoryEvent {
    Imported {
        #[event(tag = "commit")]
        commit: CommitId,
        parents: Vec<String>,
        author: String,
        time: Timestamp,
    },
}

impl RepositoryEvent {
    pub fn commit(&self) -> &str {
        let Self::Imported { commit, .. } = self;
        &commit.0
    }

    pub fn time(&self) -> Timestamp {
        let Self::Imported { time, .. } = self;
        *time
    }
}

/// How far the import of a repository has come. Its id is that of the first commit, wherever the repository is.
#[derive(Aggregate, Clone, Debug)]
pub struct Repository {
    pub commits: usize,
    pub last: String,
}

impl Evolve for Repository {
    type Event = RepositoryEvent;

    fn evolve(&mut self, event: RepositoryEvent) {
        self.commits += 1;
        self.last = event.commit().to_owned();
    }
}

/// A file of the tree, as it is after the last commit that was taken in.
#[derive(ReadModel, Serialize, Deserialize, Clone, Debug, Default)]
pub struct File {
    pub mode: String,
    pub object: String,
    pub path: Option<String>,
}

impl File {
    pub fn path(&self, key: &str) -> Vec<u8> {
        path::of(key, self.path.as_deref())
    }
}

impl Project for File {
    type Event = PathEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<PathEvent>) {
        match &event.data {
            PathEvent::Added { mode, object, path } => {
                **row = Self { mode: mode.clone(), object: object.clone(), path: path.clone() };
            }
            PathEvent::Modified { mode, object } => {
                (row.mode, row.object) = (mode.clone(), object.clone());
            }
            PathEvent::Removed => row.delete(),
        }
    }
}

/// How often a path changed.
#[derive(ReadModel, Serialize, Deserialize, Clone, Debug, Default)]
pub struct Changes {
    pub changes: u64,
    pub path: Option<String>,
}

impl Changes {
    pub fn path(&self, key: &str) -> Vec<u8> {
        path::of(key, self.path.as_deref())
    }
}

impl Project for Changes {
    type Event = PathEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<PathEvent>) {
        row.changes += 1;
        if let PathEvent::Added { path: Some(path), .. } = &event.data {
            row.path = Some(path.clone());
        }
    }
}
