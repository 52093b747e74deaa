//! What the samples come to: costs by way, and the bars.

use anyhow::{Context, Result};

use super::engine::EngineSample;
use super::memory::Idle;
use super::{ALL, Bench, Way, What, measured};
use crate::bench::bars::{Bar, By, Limit, median_of};

impl Bench<'_> {
    /// Costs by round; the whole machine's above those of the direct way.
    fn costs(&self, what: What, way: Way) -> [Vec<f64>; 2] {
        let of = |way| self.samples.iter().filter(move |s| s.what == what && s.way == way);
        let attributed = of(way).map(|sample| sample.attributed).collect();
        let above = of(way)
            .zip(of(Way::Direct))
            .map(|(sample, direct)| sample.whole_machine - direct.whole_machine)
            .collect();
        [attributed, above]
    }

    /// Medians, for the reader.
    pub fn table(&self) -> Vec<String> {
        let mut lines = vec![];
        for what in ALL {
            for way in self.ways(0).into_iter().filter(|way| measured(*way, what)) {
                let [attributed, above] = self
                    .costs(what, way)
                    .map(|costs| median_of(&costs).unwrap_or_default() / 1000.0);
                lines.push(format!(
                    "{what:?} by {way:?}: {attributed:.1} us of its processes, {above:.1} us of the \
                     whole machine above the direct way"
                ));
            }
        }
        lines
    }

    pub fn bars(&self, by: By, memory: [Idle; 2], forges: u64) -> Result<Vec<Bar>> {
        use Limit::{AtLeast, AtMost};
        use Way::{Haproxy, Sslsplit, WeirForging, WeirOwn};
        use What::{Gigabyte, Request, SessionP256, SessionRsa};
        let mut bars = Vec::new();
        let mut add = |name, limit, attributed: Vec<f64>, whole: Vec<f64>| -> Result<()> {
            bars.push(Bar::new(name, limit, by, attributed, whole).context("nothing measured")?);
            Ok(())
        };
        // Where more is better a peer's cost is above the line.
        for (name, limit, what, above, below) in [
            ("sessions-p256-to-sslsplit", AtLeast(3.0), SessionP256, Sslsplit, WeirForging),
            ("sessions-rsa-to-sslsplit", AtLeast(3.0), SessionRsa, Sslsplit, WeirForging),
            ("sessions-p256-to-haproxy", AtLeast(1.0), SessionP256, Haproxy, WeirOwn),
            ("sessions-rsa-to-haproxy", AtLeast(1.0), SessionRsa, Haproxy, WeirOwn),
            ("bulk-to-haproxy", AtMost(1.15), Gigabyte, WeirForging, Haproxy),
            ("bulk-to-sslsplit", AtMost(0.7), Gigabyte, WeirForging, Sslsplit),
            ("requests-to-haproxy", AtLeast(1.0), Request, Haproxy, WeirForging),
        ] {
            if [above, below].iter().any(|way| !self.ways(0).contains(way)) {
                println!("{name}: not measured, without the peer");
                continue;
            }
            let (above, below) = (self.costs(what, above), self.costs(what, below));
            let ratios = |of: usize| -> Vec<f64> {
                above[of].iter().zip(&below[of]).map(|(above, below)| above / below).collect()
            };
            add(name, limit, ratios(0), ratios(1))?;
        }
        let engine = |ratio: fn(&EngineSample) -> f64| self.engine.iter().map(ratio).collect();
        let limit = AtMost(1.3);
        add("engine-to-crypto-p256", limit, engine(EngineSample::over_crypto_p256), vec![])?;
        add("engine-to-crypto-rsa", limit, engine(EngineSample::over_crypto_rsa), vec![])?;
        add("forging-to-signature", AtMost(3.0), engine(EngineSample::forging), vec![])?;
        add("forges-of-100-first-visits", AtMost(1.0), vec![forges as f64], vec![])?;
        let [modern, legacy] = memory.map(|idle| vec![idle.user / 1024.0]);
        add("idle-session-kib-modern", AtMost(32.0), modern, vec![])?;
        add("idle-session-kib-legacy", AtMost(64.0), legacy, vec![])?;
        Ok(bars)
    }
}
