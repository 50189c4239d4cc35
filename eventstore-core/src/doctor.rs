//! The findings of a store about its own database: is it a safe place for a log?

use std::fmt;

use crate::stream::Position;

/// The use of the [`Report`] when a store is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Check nothing.
    Ignore,
    /// Log the findings, by `tracing`.
    #[default]
    Warn,
    /// Log the findings. Opening the store fails with [`StoreError::Unhealthy`](crate::StoreError::Unhealthy) at a
    /// danger.
    Refuse,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// No problem.
    #[default]
    Ok,
    /// Slower, or harder to run, than it could be; nothing is lost.
    Warning,
    /// Acknowledged events can be lost or changed, or nothing can be appended.
    Danger,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The fixed name of the check: `fsync`, `clock`, `rights`.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What the check found.
    pub found: String,
    /// The advice; empty if there is nothing to do.
    pub advice: String,
}

/// All findings. `Display` lists them for the operator of the database, the worst first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The findings, in a fixed order of checks.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Adds a finding without a problem.
    pub fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, Severity::Ok, found, "");
    }

    /// Adds a warning, with advice.
    pub fn warning(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Severity::Warning, found, advice);
    }

    /// Adds a danger, with advice.
    pub fn danger(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Severity::Danger, found, advice);
    }

    /// Adds whether events are stamped later than the clock: `over` is the last position that is not, `head` the end of
    /// the log.
    pub fn stamps(&mut self, over: Position, head: Position) {
        match over < head {
            false => self.ok("stamps", "no event is stamped ahead of the clock"),
            true => self.warning(
                "stamps",
                format!(
                    "positions {} to {head} are stamped ahead of the clock, which was wrong when they were recorded: \
                     `as_of` an instant before their stamps lacks them, and what is recorded until then gets the same stamp",
                    over.0 + 1
                ),
                "Let the clock follow a time server. Ask for the past by position until the clock has come to the stamps.",
            ),
        }
    }

    /// Adds a finding.
    pub fn add(
        &mut self,
        check: &'static str,
        severity: Severity,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.findings.push(Finding { check, severity, found: found.into(), advice: advice.into() });
    }

    /// Returns the worst severity.
    pub fn severity(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or_default()
    }

    /// Returns the finding of a check.
    pub fn get(&self, check: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.check == check)
    }

    /// Returns the warnings and dangers, the worst first.
    pub fn problems(&self) -> Vec<&Finding> {
        let mut problems = self.worst_first();
        problems.retain(|finding| finding.severity > Severity::Ok);
        problems
    }

    /// Returns the dangers in one line.
    pub(crate) fn dangers(&self) -> String {
        let dangers = self.findings.iter().filter(|finding| finding.severity == Severity::Danger);
        dangers.map(|finding| format!("{}: {}", finding.check, finding.found)).collect::<Vec<_>>().join("; ")
    }

    fn worst_first(&self) -> Vec<&Finding> {
        let mut findings: Vec<_> = self.findings.iter().collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Danger => "DANGER",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:8} {}: {}", self.severity, self.check, self.found)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "\n         → {}", self.advice) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, finding) in self.worst_first().into_iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_the_worst_first_and_what_to_do() {
        let mut report = Report::default();
        assert_eq!((report.severity(), report.to_string()), (Severity::Ok, String::new()));
        report.ok("server", "PostgreSQL 15.18");
        report.warning("clock", "3 s behind", "Run ntpd.");
        report.danger("fsync", "off", "Turn it on.");
        let shown = "DANGER   fsync: off\n         → Turn it on.\n\
                     warning  clock: 3 s behind\n         → Run ntpd.\n\
                     ok       server: PostgreSQL 15.18";
        assert_eq!(report.to_string(), shown);
        assert_eq!(report.severity(), Severity::Danger);
        let refused = crate::StoreError::Unhealthy(report.clone()).to_string();
        assert_eq!(refused, "the database is no safe place for a log: fsync: off");
        assert_eq!(report.problems().iter().map(|finding| finding.check).collect::<Vec<_>>(), ["fsync", "clock"]);
        assert_eq!(report.get("server").map(|finding| &*finding.found), Some("PostgreSQL 15.18"));
    }
}
