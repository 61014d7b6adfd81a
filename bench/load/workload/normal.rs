//! The quantiles of the standard normal distribution. Pure arithmetic.

/// The value that a standard normal variable stays below with probability `p`, `0 < p < 1`,
/// to about seven digits.
///
/// The rational approximations are PPND7 of algorithm AS 241 (M. J. Wichura, "The
/// Percentage Points of the Normal Distribution", Applied Statistics 37, 1988).
#[inline]
pub fn quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        let above = ((59.109_374_720 * r + 159.291_132_02) * r + 50.434_271_938) * r + 3.387_132_717_9;
        let below = ((67.187_563_600 * r + 78.757_757_664) * r + 17.895_169_469) * r + 1.0;
        return q * above / below;
    }
    let r = (-p.min(1.0 - p).ln()).sqrt();
    let distance = if r <= 5.0 {
        let r = r - 1.6;
        let above = ((0.170_238_211_03 * r + 1.306_728_481_6) * r + 2.756_815_390_0) * r + 1.423_437_277_7;
        let below = (0.120_211_329_75 * r + 0.737_001_642_50) * r + 1.0;
        above / below
    } else {
        let r = r - 5.0;
        let above = ((0.017_337_203_997 * r + 0.428_682_943_37) * r + 3.081_226_386_0) * r + 6.657_905_115_0;
        let below = (0.012_258_202_635 * r + 0.241_978_942_25) * r + 1.0;
        above / below
    };
    distance.copysign(q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_published_ones() {
        for (p, z) in [
            (0.5, 0.0),
            (0.6, 0.253_347_103_1),
            (0.9, 1.281_551_565_5),
            (0.93, 1.475_791_028_2),
            (0.975, 1.959_963_984_5),
            (0.999, 3.090_232_306_2),
            (1e-6, -4.753_424_308_8),
            (1e-12, -7.034_483_825_3),
            (1e-15, -7.941_345_326_2),
        ] {
            assert!((quantile(p) - z).abs() < 2e-6, "{p}: {}", quantile(p));
            if p > 1e-10 {
                assert!((quantile(1.0 - p) + z).abs() < 2e-6, "1 - {p}: {}", quantile(1.0 - p));
            }
        }
    }
}
