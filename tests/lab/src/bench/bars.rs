//! Bars: a ratio held against its limit, by rounds, and what is printed and kept of it.

use std::fmt;

use serde::Serialize;

/// What a ratio is held against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "<={limit:.2}"),
            Self::AtLeast(limit) => write!(f, ">={limit:.2}"),
        }
    }
}

/// One bar's result. Ratios are by round, in the order they were measured.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    pub name: &'static str,
    pub limit: Limit,
    /// Which ratios `ratio` is the median of.
    pub by: By,
    pub ratio: f64,
    pub lowest: f64,
    pub highest: f64,
    pub attributed: Vec<f64>,
    /// Empty where only one process can be meant.
    pub whole_machine: Vec<f64>,
}

/// A machine busier than this, in processors, before anything is measured is shared with others.
const QUIET: f64 = 0.05;

/// Whose CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The whole machine's, less what it used before the bench began.
    WholeMachine,
    /// That of the threads or processes that are measured: others use the machine.
    Attributed,
}

impl By {
    /// With so many processors busy before anything is measured.
    pub fn for_load(idle: f64) -> Self {
        if idle <= QUIET { Self::WholeMachine } else { Self::Attributed }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WholeMachine => "the whole machine's CPU time",
            Self::Attributed => "the CPU time of what is measured",
        })
    }
}

impl Bar {
    /// `None` where nothing was measured.
    pub fn new(
        name: &'static str,
        limit: Limit,
        by: By,
        attributed: Vec<f64>,
        whole_machine: Vec<f64>,
    ) -> Option<Self> {
        let by = if whole_machine.is_empty() { By::Attributed } else { by };
        let mut sorted = match by {
            By::WholeMachine => whole_machine.clone(),
            By::Attributed => attributed.clone(),
        };
        sorted.sort_by(f64::total_cmp);
        let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
        let ratio = median(&sorted)?;
        Some(Self { name, limit, by, ratio, lowest, highest, attributed, whole_machine })
    }

    pub fn holds(&self) -> bool {
        match self.limit {
            Limit::AtMost(limit) => self.ratio <= limit,
            Limit::AtLeast(limit) => self.ratio >= limit,
        }
    }

    /// The spread, for the reader.
    pub fn spread(&self) -> String {
        format!(
            "{}: median {:.2} of {} rounds, {:.2} to {:.2}",
            self.name,
            self.ratio,
            self.attributed.len(),
            self.lowest,
            self.highest
        )
    }
}

/// The one line a bar that scripts read.
impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = match self.limit {
            Limit::AtMost(limit) | Limit::AtLeast(limit) => limit,
        };
        let verdict = if self.holds() { "ok" } else { "short" };
        write!(f, "bar {} {:.2} {limit:.2} {verdict}", self.name, self.ratio)
    }
}

/// Of values in any order.
pub fn median_of(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median(&sorted)
}

/// Of sorted values.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((upper + *sorted.get(middle - 1)?) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_the_median_of_its_rounds() {
        let rounds = vec![1.3, 1.0, 1.1];
        let bar = Bar::new("x", Limit::AtMost(1.1), By::Attributed, rounds, vec![]).unwrap();
        assert_eq!(bar.to_string(), "bar x 1.10 1.10 ok");
        let bar = Bar::new("y", Limit::AtLeast(0.9), By::WholeMachine, vec![1.0], vec![0.8, 0.9])
            .unwrap();
        assert_eq!(bar.to_string(), "bar y 0.85 0.90 short");
        assert!(Bar::new("z", Limit::AtMost(1.0), By::Attributed, vec![], vec![]).is_none());
    }
}
