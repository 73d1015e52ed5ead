package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/calpe/calpe/storage/keyring"
	"github.com/calpe/calpe/storage/postgres"
)

func TestFindingLimits(t *testing.T) {
	for _, c := range []struct {
		f    Finding
		on   bool
		fail string
	}{
		{Finding{30, 600}, true, ""},
		{Finding{0, 600}, false, ""},
		{Finding{-1, 600}, false, "limits on finding"},
		{Finding{30, 0}, false, "limits on finding"},
	} {
		finder, err := c.f.finder(new(postgres.DB), new(keyring.Ring))
		if (finder != nil) != c.on || (err != nil) != (c.fail != "") || err != nil && !strings.Contains(err.Error(), c.fail) {
			t.Errorf("%+v: %v, %v", c.f, finder, err)
		}
	}
}

func TestTrustedProxies(t *testing.T) {
	parse := func(args ...string) ([]netip.Prefix, error) {
		var c cli
		parser, err := kong.New(&c)
		if err != nil {
			t.Fatal(err)
		}
		_, err = parser.Parse(append([]string{"serve"}, args...))
		return c.Serve.TrustedProxies, err
	}
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	if got, err := parse(); err != nil || !slices.Equal(got, prefixes("127.0.0.0/8", "::1/128")) {
		t.Errorf("default: %v, %v", got, err)
	}
	if got, err := parse("--trusted-proxies=10.1.0.0/16,fd00::/8"); err != nil || !slices.Equal(got, prefixes("10.1.0.0/16", "fd00::/8")) {
		t.Errorf("two networks: %v, %v", got, err)
	}
	if got, err := parse("--trusted-proxies=10.1.0.1"); err == nil {
		t.Errorf("an address that is no network became %v", got)
	}
}
