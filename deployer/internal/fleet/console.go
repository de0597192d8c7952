package fleet

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
)

// Bounds of what is shown of a console.
const (
	consoleBytes = 16 << 10
	consoleLines = 12
	consoleWidth = 200
)

// lastOfConsole returns the last lines of a VM's console, as the end of a message;
// "" if there is no console. What cannot be read is said: it may be libvirt's own.
func lastOfConsole(path string) string {
	if path == "" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Sprintf("; its console cannot be read: %v", err)
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > consoleBytes {
		_, err = f.Seek(-consoleBytes, io.SeekEnd)
		if err != nil {
			return fmt.Sprintf("; its console cannot be read: %v", err)
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, consoleBytes))
	if err != nil {
		return fmt.Sprintf("; its console cannot be read: %v", err)
	}
	lines := consoleText(string(data))
	if len(lines) == 0 {
		return "; its console shows nothing: the VM has not begun to boot"
	}
	return "; the last lines of its console, " + path + ":\n  " + strings.Join(lines, "\n  ")
}

// consoleText returns the last lines of what a VM wrote, safe to print.
func consoleText(text string) []string {
	var lines []string
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimSpace(strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return -1
			}
			return r
		}, line))
		if line == "" {
			continue
		}
		if runes := []rune(line); len(runes) > consoleWidth {
			line = string(runes[:consoleWidth]) + "..."
		}
		lines = append(lines, line)
	}
	return lines[max(0, len(lines)-consoleLines):]
}
