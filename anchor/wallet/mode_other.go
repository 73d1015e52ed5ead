//go:build !unix

package wallet

import (
	"errors"
	"io/fs"
)

// checkMode can't look at permissions here: the mode of a file doesn't show them.
func checkMode(mode fs.FileMode) error {
	if !mode.IsRegular() {
		return errors.New("it is not a regular file")
	}
	return nil
}
