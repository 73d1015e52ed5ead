// Package buildinfo says what a program was built from.
package buildinfo

import (
	"runtime/debug"
	"strings"
)

// Version is one line for people: the program's name, the version of its
// module and the version of Go. Where the build knows no version but the
// commit, it is that; "(devel)" where it knows neither.
func Version(program string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return program + " (devel)"
	}
	return describe(program, info)
}

func describe(program string, info *debug.BuildInfo) string {
	version := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (version == "" || version == "(devel)") {
			version = s.Value
		}
	}
	if version == "" {
		version = "(devel)"
	}
	return strings.Join([]string{program, version, info.GoVersion}, " ")
}
