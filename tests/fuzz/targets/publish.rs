//! The grammar of `-publish`, and of what the policy grants: each mapping is printed as what reads as
//! it again.
#![no_main]

use netsetgo::fuzzing::ports::{Granted, Publication};
use netsetgo::fuzzing::{one_line, texts};

netsetgo_fuzz::target!(check);

fn check(bytes: &[u8]) {
    let Some([asked, granted]) = texts(bytes) else { return };
    let granted = granted.parse::<Granted>();
    if let Ok(granted) = &granted {
        assert_eq!(granted.to_string().parse().as_ref(), Ok(granted));
        let Granted(ports) = granted;
        assert!(!ports.contains(&0) && !(ports.contains(&1023) && ports.contains(&1024)));
    }
    match asked.parse::<Publication>() {
        Err(why) => one_line(why, 0),
        Ok(Publication(all)) => {
            assert!(!all.is_empty());
            // Of a long range the ends tell enough.
            for mapping in all.first().into_iter().chain(all.last()) {
                assert_ne!(mapping.container_port, 0);
                assert_eq!(mapping.to_string().parse(), Ok(Publication(vec![*mapping])));
                assert_eq!(mapping.conflicts(mapping), mapping.host_port != 0);
            }
        }
    }
}
