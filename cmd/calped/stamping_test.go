package main

import (
	"strings"
	"testing"
)

// TestCalendarsOfSettings: what is wrong with an address is said without what may
// be a password, and the log's own calendar is none of them.
func TestCalendarsOfSettings(t *testing.T) {
	t.Parallel()
	const own = "https://calendar.gov.example"
	for text, words := range map[string]string{
		"https://clerk:hunter2@a.example": "address 2: it has a user",
		"ftp://a.example":                 "address 2: it is not of the form https://host",
		own + "/":                         "can't anchor itself",
	} {
		_, err := Stamping{Calendars: []string{"https://b.example", text}}.urls(own)
		if err == nil || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", text, err, words)
		}
	}
	list, err := Stamping{Calendars: []string{"https://b.example/", "http://c.example:8421"}}.urls("")
	if err != nil || len(list) != 2 || list[0].String() != "https://b.example" || list[1].String() != "http://c.example:8421" {
		t.Errorf("addresses: %v, %v", list, err)
	}
}
