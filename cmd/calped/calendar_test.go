package main

import (
	"strings"
	"testing"
)

func TestCalendarSettings(t *testing.T) {
	const uri = "https://calendar.example"
	for _, c := range []struct {
		c    Calendar
		fail string
	}{
		{Calendar{"", "", 60, 600}, ""},
		{Calendar{":8421", uri, 60, 600}, ""},
		{Calendar{"", uri, 60, 600}, ""}, // another server has the calendar
		{Calendar{":8421", "", 60, 600}, "set CALPE_CALENDAR_URI"},
		{Calendar{":8421", uri + "/", 60, 600}, "without a path"},
		{Calendar{"", "calendar.example", 60, 600}, "CALPE_CALENDAR_URI"},
		{Calendar{":8421", uri, 0, 600}, "limits on stamping"},
		{Calendar{":8421", uri, 60, -1}, "limits on stamping"},
	} {
		err := c.c.check()
		if (err != nil) != (c.fail != "") || err != nil && !strings.Contains(err.Error(), c.fail) {
			t.Errorf("%+v: %v, want %q", c.c, err, c.fail)
		}
	}
}
