package statement

import (
	"fmt"
	"time"
	"unicode/utf8"
)

const (
	timeLayout = "2006-01-02T15:04:05Z"
	dateLayout = time.DateOnly
)

// FormatTime is the only text form of a time: UTC, to the second, which is
// rounded down. See [CheckTime] for the times that have one.
func FormatTime(t time.Time) string { return t.UTC().Format(timeLayout) }

// ParseTime reads what [FormatTime] writes, and nothing else. The result is UTC.
func ParseTime(text string) (time.Time, error) {
	t, err := time.Parse(timeLayout, text)
	if err != nil || FormatTime(t) != text {
		return time.Time{}, fmt.Errorf("time %.40q is not of the form 2026-11-21T09:30:00Z", text)
	}
	return t, CheckTime(t)
}

// CheckTime refuses times before 1970 and after 9999. No clock that is set
// gives them, and not every reader has a form for them.
func CheckTime(t time.Time) error {
	if y := t.UTC().Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("time has year %d, outside of 1970 to 9999", y)
	}
	return nil
}

// Date is a day of the calendar in the form "2026-11-21"; the empty Date is no
// day. Dates compare as strings.
type Date string

// DateOf is the day that it is in UTC at t.
func DateOf(t time.Time) Date { return Date(t.UTC().Format(dateLayout)) }

// ParseDate reads a day that exists, in the form above and no other.
func ParseDate(text string) (Date, error) {
	t, err := time.Parse(dateLayout, text)
	if err != nil || t.Format(dateLayout) != text {
		return "", fmt.Errorf("date %.40q is not of the form 2026-11-21", text)
	}
	return Date(text), nil
}

// wireTime is a time inside JSON.
type wireTime time.Time

func (t wireTime) MarshalText() ([]byte, error) {
	if err := CheckTime(time.Time(t)); err != nil {
		return nil, err
	}
	return []byte(FormatTime(time.Time(t))), nil
}

func (t *wireTime) UnmarshalText(text []byte) error {
	v, err := ParseTime(string(text))
	*t = wireTime(v)
	return err
}

// checkText allows 1 to limit characters of text for people. Control
// characters, line separators and those that turn the direction of writing are
// refused: whoever shows the text next to a verdict must not have it redrawn.
func checkText(text string, limit int) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("is not valid UTF-8")
	}
	if n := utf8.RuneCountInString(text); n < 1 || n > limit {
		return fmt.Errorf("has %d characters, want 1 to %d", n, limit)
	}
	for i, r := range text {
		if isControl(r) {
			return fmt.Errorf("has the control character %U at byte %d", r, i)
		}
	}
	return nil
}

func isControl(r rune) bool {
	return r < 0x20 || r >= 0x7f && r <= 0x9f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// CheckAgencyID allows the identifier of an agency: 1 to 64 characters out of
// a-z0-9-, not starting or ending with "-".
func CheckAgencyID(id string) error {
	if len(id) < 1 || len(id) > 64 {
		return fmt.Errorf("agency identifier has %d characters, want 1 to 64", len(id))
	}
	for i := range len(id) {
		if c := id[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("agency identifier %q has a character that isn't one of a-z0-9- at byte %d", id, i)
		}
	}
	if id[0] == '-' || id[len(id)-1] == '-' {
		return fmt.Errorf("agency identifier %q starts or ends with -", id)
	}
	return nil
}
