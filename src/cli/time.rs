//! Moments on the command line: `2024-05-01T12:30:00.000Z`, an offset such as `+02:00`, or
//! milliseconds since the epoch.

/// Milliseconds since the epoch. Without an offset the time is UTC.
pub(crate) fn parse_millis(text: &str) -> Result<i64, String> {
    let bad = || {
        "expected YYYY-MM-DDThh:mm:ss[.sss][Z|+hh:mm] or milliseconds since the epoch".to_owned()
    };
    if let Ok(millis) = text.parse::<i64>() {
        return Ok(millis);
    }
    let (date, time) = text.split_once(['T', ' ']).ok_or_else(bad)?;
    let (time, offset_minutes) = split_offset(time).ok_or_else(bad)?;
    let numbers =
        |s: &str, by: char| -> Option<Vec<i64>> { s.split(by).map(|n| n.parse().ok()).collect() };
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let millis: i64 = format!("{fraction:0<3}")
        .get(..3)
        .and_then(|f| f.parse().ok())
        .ok_or_else(bad)?;
    let date = numbers(date, '-').ok_or_else(bad)?;
    let clock = numbers(clock, ':').ok_or_else(bad)?;
    let (&[year, month, day], &[hour, minute, second]) = (&date[..], &clock[..]) else {
        return Err(bad());
    };
    let in_range = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..61).contains(&second)
        && (1970..10_000).contains(&year);
    if !in_range {
        return Err(bad());
    }
    let minutes = (days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    Ok((minutes * 60 + second) * 1000 + millis)
}

/// The time without its offset, and the offset in minutes.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix('Z') {
        return Some((time, 0));
    }
    let Some(at) = time.rfind(['+', '-']) else {
        return Some((time, 0));
    };
    let sign = if time[at..].starts_with('-') { -1 } else { 1 };
    let digits: String = time[at + 1..].chars().filter(|c| *c != ':').collect();
    let (hours, minutes) = (digits.get(..2)?, digits.get(2..4).unwrap_or("0"));
    let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
    Some((&time[..at], sign * minutes))
}

/// Days from 1970-01-01 in the Gregorian calendar, counting years from March so that leap days come
/// last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// `2024-05-01T12:30:00.000Z` of milliseconds since the epoch.
pub(crate) fn format_millis(millis: i64) -> String {
    let days = millis.div_euclid(86_400_000);
    let in_day = millis.rem_euclid(86_400_000);
    // The inverse of days_since_epoch, by guess and correction.
    let mut year = 1970 + days * 400 / 146_097;
    while days_since_epoch(year, 1, 1) > days {
        year -= 1;
    }
    while days_since_epoch(year + 1, 1, 1) <= days {
        year += 1;
    }
    let month = (1..=12)
        .rfind(|m| days_since_epoch(year, *m, 1) <= days)
        .unwrap_or(1);
    let day = days - days_since_epoch(year, month, 1) + 1;
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, ms) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}
