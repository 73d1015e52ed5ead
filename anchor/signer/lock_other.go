//go:build !unix

package signer

import (
	"errors"
	"os"
)

func lockState(string) (*os.File, error) {
	return nil, errors.New("a signer of its own runs on Unix systems only: its state can't be locked here")
}
