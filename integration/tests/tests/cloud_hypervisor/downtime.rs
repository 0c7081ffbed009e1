// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Device state counts in the convergence test, so `downtime_ms` means something.

use e2e::cloud_hypervisor::{Rig, Setup};
use e2e::patched;

/// So much VRAM that no loopback moves it in a few milliseconds.
fn much_vram() -> Setup {
    Setup {
        vram: "256M",
        ..Setup::default()
    }
}

#[test]
fn a_goal_that_device_state_cannot_meet_cancels_the_migration_before_the_pause() {
    let mut rig = Rig::new(patched!(), &much_vram());
    rig.fill_vram();
    let url = rig.tcp_url();
    let send = ",downtime_ms=5,timeout_s=5,timeout_strategy=cancel";
    let failed = rig.fails_to_migrate(&url, send);
    assert!(
        failed.message.contains("downtime"),
        "the reason is not named: {failed:?}"
    );
    assert!(
        !rig.source.events().have("pausing"),
        "the guest was paused although the goal could not be met"
    );
}

#[test]
fn a_goal_that_device_state_cannot_meet_is_given_up_when_the_user_says_so() {
    let mut rig = Rig::new(patched!(), &much_vram());
    rig.fill_vram();
    let url = rig.tcp_url();
    rig.migrates(&url, ",downtime_ms=5,timeout_s=5,timeout_strategy=ignore");
}

#[test]
fn a_goal_that_device_state_can_meet_is_met() {
    let mut rig = Rig::new(patched!(), &much_vram());
    rig.fill_vram();
    let url = rig.tcp_url();
    let goal = std::time::Duration::from_secs(10);
    let send = format!(
        ",downtime_ms={},timeout_s=60,timeout_strategy=cancel",
        goal.as_millis()
    );
    let moved = rig.migrates(&url, &send);
    assert!(moved.downtime < goal, "{:?}", moved.downtime);
}
