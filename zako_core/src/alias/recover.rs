//! Opening a table: the index is built anew from the log.

use std::path::Path;
use std::sync::Arc;

use super::index::Index;
use super::log::{LOG, Log, NEW_LOG};
use super::record::{HEADER_LEN, Header, RECORD_LEN, Record};
use super::{Alias, AliasOptions, is_past};
use crate::cas::{CasError, ErrorKind, Result};
use crate::store::format::ALIASES;
use crate::store::local::io::{Access, Backend, BackendFile, Lock, read_exact_at};

/// A table as its folder has it.
pub(super) struct Opened {
    pub(super) index: Index,
    pub(super) log: Log,
    pub(super) lock: Box<dyn Lock>,
    /// Records that were not whole, and had whole ones behind them.
    pub(super) damaged: u64,
    /// The header is damaged: the log has to be written anew.
    pub(super) headless: bool,
}

/// What is read at once.
const STEP: usize = RECORD_LEN << 14;

/// Opens the table in this folder, or makes one.
pub(super) fn open(dir: &Path, options: &AliasOptions) -> Result<Opened> {
    let backend = &*options.backend;
    let wrap = |error| CasError::io("opening the aliases", dir, error);
    backend.create_dir_all(dir).map_err(wrap)?;
    let lock = lock(backend, dir)?;
    if let Some(above) = dir.parent() {
        let is_here = above.as_os_str().is_empty();
        let above = if is_here { Path::new(".") } else { above };
        backend.sync_dir(above).map_err(wrap)?;
    }
    // A killed process may have left names that are not on disk yet; what is built on
    // them now must not lose them.
    backend.sync_dir(dir).map_err(wrap)?;
    match backend.remove(&dir.join(NEW_LOG)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(wrap(error)),
        _ => {}
    }
    let path = dir.join(LOG);
    let now = super::unix_seconds(&*options.clock);
    match backend.open(&path, Access::ReadWrite) {
        Ok(file) => read(file, &path, now, lock),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut log = Log::create(backend, dir.join(NEW_LOG))?;
            log.sync()?;
            log.rename(backend, path).map_err(|(error, _)| error)?;
            Ok(Opened {
                index: Index::new(),
                log,
                lock,
                damaged: 0,
                headless: false,
            })
        }
        Err(error) => Err(wrap(error)),
    }
}

fn lock(backend: &dyn Backend, dir: &Path) -> Result<Box<dyn Lock>> {
    let path = dir.join("lock");
    let note = format!("{}\n", std::process::id());
    let lock = backend
        .lock(&path, &note)
        .map_err(|error| CasError::io("locking the aliases", &path, error))?;
    lock.ok_or_else(|| {
        let text = "another process has the aliases open; the file says its number";
        CasError::new(ErrorKind::Locked, text).with_path(&path)
    })
}

fn read(file: Arc<dyn BackendFile>, path: &Path, now: u64, lock: Box<dyn Lock>) -> Result<Opened> {
    let wrap = |error| CasError::io("reading the aliases", path, error);
    let length = file.length().map_err(wrap)?;
    let mut header = [0; HEADER_LEN];
    let decoded = if length < HEADER_LEN as u64 {
        Header::Damaged
    } else {
        read_exact_at(&*file, &mut header, 0).map_err(wrap)?;
        Header::decode(&header)
    };
    let mut epoch = match decoded {
        Header::Whole { epoch } => Some(epoch),
        Header::OtherVersion(version) => return Err(ALIASES.refuse(version).with_path(path)),
        Header::Damaged => {
            tracing::warn!(path = %path.display(), "the header is damaged; what can be read is kept");
            None
        }
    };
    let headless = epoch.is_none();

    let records = length.saturating_sub(HEADER_LEN as u64) / RECORD_LEN as u64;
    let mut index = Index::new();
    index.reserve(usize::try_from(records).unwrap_or(usize::MAX).min(1 << 20));
    let mut buffer = vec![0; STEP.min(records as usize * RECORD_LEN)];
    let (mut seen, mut whole, mut last_whole) = (0, 0, 0);
    while seen < records {
        let some = (records - seen).min(STEP as u64 / RECORD_LEN as u64) as usize;
        let bytes = &mut buffer[..some * RECORD_LEN];
        let offset = HEADER_LEN as u64 + seen * RECORD_LEN as u64;
        read_exact_at(&*file, bytes, offset).map_err(wrap)?;
        for bytes in bytes.as_chunks::<RECORD_LEN>().0 {
            seen += 1;
            if epoch.is_none() {
                epoch = Record::epoch(bytes);
            }
            let Some(record) = epoch.and_then(|epoch| Record::decode(bytes, epoch)) else {
                continue;
            };
            (whole, last_whole) = (whole + 1, seen);
            index.set_mut(&unless_past(record, now));
        }
    }

    let damaged = last_whole - whole;
    if damaged > 0 {
        tracing::warn!(
            path = %path.display(),
            records = damaged,
            "records of aliases are damaged, or a crash came while they were written"
        );
    }
    let end = HEADER_LEN as u64 + last_whole * RECORD_LEN as u64;
    if length != end {
        file.set_len(end).map_err(wrap)?;
    }
    // What was just read may be in memory only: a record that was written and not synced
    // when the process was killed.
    file.sync_data().map_err(wrap)?;
    Ok(Opened {
        index,
        log: Log::resume(file, path.to_owned(), epoch.unwrap_or_default(), end),
        lock,
        damaged,
        headless,
    })
}

/// The record, or a removal if its time has passed.
fn unless_past(record: Record, now: u64) -> Record {
    let alive = |alias: &Alias| !is_past(alias, now);
    Record {
        alias: record.alias.filter(alive),
        ..record
    }
}
