// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The answer on the way back.

use xe_vfio_device::stream::{Receipt, ReceiptError, VfOutcome};

fn all() -> Vec<Receipt> {
    let failed = |vf| Receipt::Failed {
        vf,
        reason: "No trailer".to_owned(),
    };
    let mut all = [VfOutcome::Untouched, VfOutcome::Reset, VfOutcome::Lost]
        .map(failed)
        .to_vec();
    all.push(Receipt::Loaded);
    all
}

#[test]
fn a_receipt_comes_back_as_it_went() {
    for receipt in all() {
        let mut bytes = Vec::new();
        receipt.write(&mut bytes).expect("a vector takes all");
        assert_eq!(bytes, receipt.encode());
        assert_eq!(
            Receipt::read(&mut &bytes[..]).expect("a good receipt"),
            receipt
        );
    }
}

#[test]
fn a_damaged_or_short_receipt_is_no_receipt() {
    for receipt in all() {
        let bytes = receipt.encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            Receipt::read(&mut &damaged[..]).expect_err("a flipped bit");
        }
        for end in 0..bytes.len() {
            let error = Receipt::read(&mut &bytes[..end]).expect_err("cut short");
            assert!(matches!(error, ReceiptError::Io("received", _)));
        }
    }
}

#[test]
fn a_long_reason_is_cut_and_an_impossible_length_takes_no_memory() {
    let long = Receipt::Failed {
        vf: VfOutcome::Reset,
        reason: "é".repeat(5000),
    };
    let read = Receipt::read(&mut &long.encode()[..]).expect("a good receipt");
    assert_eq!(
        read,
        Receipt::Failed {
            vf: VfOutcome::Reset,
            reason: "é".repeat(512)
        }
    );
    let mut bomb = Receipt::Loaded.encode();
    bomb[14..16].copy_from_slice(&u16::MAX.to_le_bytes());
    let error = Receipt::read(&mut &bomb[..]).expect_err("a length bomb");
    assert!(matches!(
        error,
        ReceiptError::Malformed {
            what: "length",
            found: 0xffff,
            ..
        }
    ));
}
