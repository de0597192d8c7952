package server

import (
	"regexp"
	"strings"
)

// semantic holds what NATS micro takes for a version.
var semantic = regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// headerText makes a message fit for a header: one line, not too long, not
// empty.
func headerText(message string) string {
	line := strings.Join(strings.Fields(message), " ")
	if len(line) > 512 {
		line = strings.ToValidUTF8(line[:512], "")
	}
	if line == "" {
		return "error"
	}
	return line
}
