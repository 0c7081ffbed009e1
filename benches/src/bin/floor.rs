// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `floor [MIB] [RUNS]`: the floor alone.

use benches::floor::{Floor, Socket};

fn main() -> anyhow::Result<()> {
    let number = |nth, otherwise| {
        std::env::args()
            .nth(nth)
            .map_or(Ok(otherwise), |n| n.parse())
    };
    let (mib, runs) = (number(1, 1024u64)?, number(2, 5u64)?);
    let mut floor = Floor::new();
    for socket in [Socket::Tcp, Socket::Unix] {
        for _ in 0..runs {
            let taken = floor.run(socket, mib << 20, 1)?;
            println!("{socket:?}: {:.3?}, CPU {:.3?}", taken.wall, taken.cpu);
        }
    }
    Ok(())
}
