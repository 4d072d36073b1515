//! Does the candidate get the part of the keys that it should? Evidence that may be looked at after every block
//! (Lindon and Malek, arXiv 2011.03567; judge.md section 3).

use serde::{Deserialize, Serialize};
use statrs::function::beta::ln_beta;

/// How many keys the prior is worth: the less, the larger the deviations it waits for. Of judge.md.
const PRIOR_KEYS: f64 = 100.0;

/// The keys of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleRatio {
    /// The part that the candidate should get.
    share: f64,
    candidate: u64,
    stable: u64,
}

impl SampleRatio {
    /// For a step in which the candidate should get this part of the keys.
    pub fn new(share: f64) -> Self {
        Self {
            share,
            ..Self::default()
        }
    }

    /// The part that the candidate should get.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Takes new keys.
    pub fn take(&mut self, stable: u64, candidate: u64) {
        self.stable += stable;
        self.candidate += candidate;
    }

    /// The natural logarithm of the evidence that the share is another. None, so zero, where all keys go one way: then there is
    /// nothing to draw.
    pub fn ln_e(&self) -> f64 {
        let rho = self.share;
        if !(rho > 0.0 && rho < 1.0) {
            return 0.0;
        }
        let (a, b) = (PRIOR_KEYS * rho, PRIOR_KEYS * (1.0 - rho));
        let (n_c, n_s) = (self.candidate as f64, self.stable as f64);
        ln_beta(a + n_c, b + n_s) - ln_beta(a, b) - n_c * rho.ln() - n_s * (-rho).ln_1p()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The values of judge.md section 3.
    #[test]
    fn it_agrees_with_the_reference() {
        let mut ratio = SampleRatio::new(0.1);
        ratio.take(40, 12);
        assert!((ratio.ln_e().exp() - 3.105_062_318_871).abs() < 1e-9);
        ratio.take(10, 9);
        assert!((ratio.ln_e().exp() - 106.238_493_206_785).abs() < 1e-8);
    }

    #[test]
    fn where_all_go_one_way_there_is_nothing_to_check() {
        for share in [0.0, 1.0, -1.0, f64::NAN] {
            let mut ratio = SampleRatio::new(share);
            ratio.take(100, 100);
            assert_eq!(ratio.ln_e().to_bits(), 0.0_f64.to_bits());
        }
    }

    proptest! {
        /// One more key: the mean of the evidence over where it goes is the evidence before, and a wrong share shows.
        #[test]
        fn it_is_a_martingale(share in 0.01..0.99_f64, stable in 0..5000_u64, candidate in 0..5000_u64) {
            let mut before = SampleRatio::new(share);
            before.take(stable, candidate);
            let (mut left, mut right) = (before, before);
            left.take(1, 0);
            right.take(0, 1);
            let step = |after: SampleRatio| (after.ln_e() - before.ln_e()).exp();
            let mean = (1.0 - share) * step(left) + share * step(right);
            prop_assert!((mean - 1.0).abs() < 1e-9, "{}", mean);
        }
    }
}
