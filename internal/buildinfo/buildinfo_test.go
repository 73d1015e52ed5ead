package buildinfo

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestDescribe(t *testing.T) {
	commit := []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "0123abcd"}}
	for name, c := range map[string]struct {
		version  string
		settings []debug.BuildSetting
		want     string
	}{
		"release":            {"v1.2.3", nil, "calpe v1.2.3 go1.26"},
		"release and commit": {"v1.2.3", commit, "calpe v1.2.3 go1.26"},
		"commit alone":       {"(devel)", commit, "calpe 0123abcd go1.26"},
		"nothing is known":   {"", nil, "calpe (devel) go1.26"},
	} {
		t.Run(name, func(t *testing.T) {
			info := &debug.BuildInfo{GoVersion: "go1.26", Settings: c.settings}
			info.Main.Version = c.version
			if got := describe("calpe", info); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if got := Version("calped"); !strings.HasPrefix(got, "calped ") {
		t.Errorf("Version is %q", got)
	}
}
