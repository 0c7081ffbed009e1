// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Opening a VF: container, group, device.

use std::os::fd::{AsFd, AsRawFd};

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, holds, refuses, same, works};
use crate::sys;
use crate::vf::{
    GROUP_GET_DEVICE_FD, Group, RUNNING, STOP, Vf, address, group_path, group_status, state_of,
};

const GROUP_SET_CONTAINER: u64 = 0x3b68;

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["device":
        opens_in_running,
        second_open_of_the_group_is_busy,
        group_is_viable_and_has_its_container,
        device_fd_needs_a_container,
        device_of_another_name_is_not_there,
        container_cannot_be_set_twice,
        second_device_fd_shows_the_same_state,
        closing_a_second_device_fd_changes_nothing,
        device_fd_is_close_on_exec,
        info_says_pci_with_reset,
        unknown_ioctl_is_not_a_ioctl,
        state_of_another_vf_is_its_own,
    ]
}

fn opens_in_running(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    same(
        "state and data_fd",
        &works("GET", vf.get())?,
        &(RUNNING, -1),
    )
}

fn second_open_of_the_group_is_busy(world: &World) -> Outcome {
    let _vf = Vf::open(&world.device)?;
    refuses(
        "second open",
        sys::open(&group_path(&world.device)?, libc::O_RDWR),
        libc::EBUSY,
    )
}

fn group_is_viable_and_has_its_container(world: &World) -> Outcome {
    let group = Group::open(&world.device)?;
    // VFIO_GROUP_FLAGS_VIABLE | VFIO_GROUP_FLAGS_CONTAINER_SET
    same(
        "flags",
        &works("VFIO_GROUP_GET_STATUS", group_status(group.fd.as_fd()))?,
        &3,
    )
}

fn device_fd_needs_a_container(world: &World) -> Outcome {
    drop(Group::open(&world.device)?);
    let bare = works("open", sys::open(&group_path(&world.device)?, libc::O_RDWR))?;
    same(
        "flags",
        &works("VFIO_GROUP_GET_STATUS", group_status(bare.as_fd()))?,
        &1,
    )?;
    refuses(
        "VFIO_GROUP_GET_DEVICE_FD",
        sys::ioctl_str(bare.as_fd(), GROUP_GET_DEVICE_FD, &address(&world.device)),
        libc::EINVAL,
    )
}

fn device_of_another_name_is_not_there(world: &World) -> Outcome {
    let group = Group::open(&world.device)?;
    refuses(
        "VFIO_GROUP_GET_DEVICE_FD",
        group.device("ffff:ff:1f.7"),
        libc::ENODEV,
    )
}

fn container_cannot_be_set_twice(world: &World) -> Outcome {
    let group = Group::open(&world.device)?;
    let another = works("open", sys::open("/dev/vfio/vfio".as_ref(), libc::O_RDWR))?;
    let mut number = another.as_raw_fd().to_ne_bytes();
    refuses(
        "VFIO_GROUP_SET_CONTAINER",
        sys::ioctl_bytes(group.fd.as_fd(), GROUP_SET_CONTAINER, &mut number),
        libc::EINVAL,
    )
}

fn second_device_fd_shows_the_same_state(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let second = works(
        "second VFIO_GROUP_GET_DEVICE_FD",
        vf.group.device(&vf.address),
    )?;
    works("SET STOP", vf.set(STOP))?;
    same("state", &works("GET", state_of(second.as_fd()))?.0, &STOP)
}

fn closing_a_second_device_fd_changes_nothing(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let second = works(
        "second VFIO_GROUP_GET_DEVICE_FD",
        vf.group.device(&vf.address),
    )?;
    works("SET STOP", vf.set(STOP))?;
    drop(second);
    same("state", &vf.state()?, &STOP)
}

fn device_fd_is_close_on_exec(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    same(
        "F_GETFD",
        &works("fcntl", sys::fcntl(vf.fd(), libc::F_GETFD, 0))?,
        &libc::FD_CLOEXEC,
    )
}

fn info_says_pci_with_reset(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let [flags, regions, irqs] = works("VFIO_DEVICE_GET_INFO", vf.info())?;
    holds("VFIO_DEVICE_FLAGS_RESET and _PCI are set", flags & 3 == 3)?;
    same("regions and interrupts", &[regions, irqs], &[9, 5])
}

fn unknown_ioctl_is_not_a_ioctl(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    refuses("ioctl 0x3bff", sys::ioctl(vf.fd(), 0x3bff, 0), libc::ENOTTY)
}

fn state_of_another_vf_is_its_own(world: &World) -> Outcome {
    let peer = Vf::open(world.peer()?)?;
    let vf = Vf::open(&world.device)?;
    works("SET STOP", vf.set(STOP))?;
    same("state of the other", &peer.state()?, &RUNNING)?;
    works("SET STOP of the other", peer.set(STOP))?;
    works("reset", vf.reset())?;
    same("state of the other after the reset", &peer.state()?, &STOP)
}
