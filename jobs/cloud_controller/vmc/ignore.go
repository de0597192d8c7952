package vmc

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
)

// readIgnore returns what of a folder is not pushed: neverPushed, and what its
// ignore files name by git's rules.
func readIgnore(folder string) (gitignore.Matcher, error) {
	lines := append([]string{}, neverPushed...)
	for _, name := range ignoreFiles {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		lines = append(lines, strings.Split(string(text), "\n")...)
	}
	return ignoreRules(lines), nil
}

// ignoreRules reads lines as git reads a .gitignore.
func ignoreRules(lines []string) gitignore.Matcher {
	var patterns []gitignore.Pattern
	for _, line := range lines {
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		// The library knows a class of other characters as [^...] only.
		patterns = append(patterns, gitignore.ParsePattern(strings.ReplaceAll(line, "[!", "[^"), nil))
	}
	return gitignore.NewMatcher(patterns)
}
