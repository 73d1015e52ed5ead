//go:build race

package integration

// raceEnabled: the programs are built with the race detector, as the tests were.
const raceEnabled = true
