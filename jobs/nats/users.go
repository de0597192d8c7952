package nats

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// User describes what the instances of a job in a group may do: the bus block of its
// job.hcl.
type User struct {
	Group     string   `json:"group"`
	Job       string   `json:"job"`
	Publish   []string `json:"publish"`
	Subscribe []string `json:"subscribe"`
	// AnswerSeconds is the time that after a question its answer may be sent.
	AnswerSeconds float64 `json:"answer_seconds"`
	// Exact: it may do what Publish and Subscribe name and nothing that components may
	// besides, such as announce themselves and answer.
	Exact bool `json:"exact,omitempty"`
}

// users are the jobs with users of their own, by "group/job".
type users map[string]User

// Every component announces itself, and answers who looks for components.
const (
	announceSubject = "vcap.component.announce"
	discoverSubject = "vcap.component.discover"
)

// uuidToken stands in a subject for the id of the connected run of a component. The
// id begins with the instance's index, so no instance can have another's.
const uuidToken = "{uuid}"

// maxAnswerSeconds bounds what the server remembers of questions.
const maxAnswerSeconds = 24 * 60 * 60

var (
	// userPattern is "router.0.router": group, index and job. See manifests.BusUser,
	// which users_test.go compares.
	userPattern    = regexp.MustCompile(`^([A-Za-z0-9_-]+)\.(0|[1-9][0-9]{0,8})\.([A-Za-z0-9_-]+)$`)
	uuidPattern    = regexp.MustCompile(`^[0-9]+-[0-9a-f]{8,64}$`)
	subjectPattern = regexp.MustCompile(`^([^\s.*>{}]+|\*|\{uuid\})(\.([^\s.*>{}]+|\*|\{uuid\}))*(\.>)?$`)
)

// readUsers reads the table of users; no file is no users.
func readUsers(file string) (users, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the users of the bus: %w", err)
	}
	var list []User
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("cannot read the users of the bus in %s: %w", file, err)
	}
	table := users{}
	for _, u := range list {
		if err := u.validate(); err != nil {
			return nil, fmt.Errorf("cannot use the users of the bus in %s: job %q of group %q: %w", file, u.Job, u.Group, err)
		}
		table[u.Group+"/"+u.Job] = u
	}
	return table, nil
}

// validate refuses subjects that are none, or are the server's own.
func (u User) validate() error {
	for _, subject := range append(append([]string{}, u.Publish...), u.Subscribe...) {
		switch {
		case !subjectPattern.MatchString(subject):
			return fmt.Errorf("%q is not a subject such as \"dea.heartbeat\" or \"dea.*.start\"", subject)
		case strings.HasPrefix(subject, "$"), strings.HasPrefix(subject, "_INBOX_"), subject[0] == '*':
			return fmt.Errorf("%q would reach the server's own subjects or others' answers", subject)
		}
	}
	if u.AnswerSeconds <= 0 || u.AnswerSeconds > maxAnswerSeconds {
		return fmt.Errorf("answer_seconds is %v, want more than 0 and at most %d", u.AnswerSeconds, maxAnswerSeconds)
	}
	return nil
}

// userPassword returns the password of a user, as manifests.BusPassword makes it.
func userPassword(shared []byte, user string) string {
	mac := hmac.New(sha256.New, shared)
	mac.Write([]byte("bus user " + user))
	return hex.EncodeToString(mac.Sum(nil))
}

// checkUser may connect and nothing else: by it the job's own checks see that the server
// answers, and with which files, whether or not the shared user is admitted.
const checkUser = "_check"

func checkPermissions() *natsserver.Permissions {
	nothing := &natsserver.SubjectPermission{Deny: []string{">"}}
	return &natsserver.Permissions{Publish: nothing, Subscribe: nothing}
}

// admit returns the user of a connection with a name such as "router.0.router", nil
// for another name. client is what the connection calls itself: "DEA 0-0123abcd".
func (u users) admit(name, password, client string, shared []byte) (*natsserver.User, error) {
	right := subtle.ConstantTimeCompare([]byte(password), []byte(userPassword(shared, name))) == 1
	if name == checkUser && right {
		return &natsserver.User{Username: name, Permissions: checkPermissions()}, nil
	}
	parts := userPattern.FindStringSubmatch(name)
	if parts == nil {
		return nil, nil
	}
	entry, ok := u[parts[1]+"/"+parts[3]]
	if !ok || !right {
		return nil, errors.New("wrong user or password")
	}
	return &natsserver.User{Username: name, Permissions: entry.Permissions(name, client)}, nil
}

// Admit returns the user of a connection by a table of jobs' users, nil for a name that
// no job's user has. It is what the server does, for tests of components.
func Admit(table []User, name, password, client string, shared []byte) (*natsserver.User, error) {
	all := users{}
	for _, u := range table {
		if err := u.validate(); err != nil {
			return nil, err
		}
		all[u.Group+"/"+u.Job] = u
	}
	return all.admit(name, password, client, shared)
}

// Permissions let a component do what its table says, ask, and answer questions. name
// is the user's, client what its connection calls itself.
func (u User) Permissions(name, client string) *natsserver.Permissions {
	if u.Exact {
		return &natsserver.Permissions{
			Publish:   &natsserver.SubjectPermission{Allow: fill(u.Publish, "")},
			Subscribe: &natsserver.SubjectPermission{Allow: fill(u.Subscribe, "")},
		}
	}
	uuid := client[strings.LastIndex(client, " ")+1:]
	if parts := userPattern.FindStringSubmatch(name); parts == nil || !uuidPattern.MatchString(uuid) || !strings.HasPrefix(uuid, parts[2]+"-") {
		uuid = ""
	}
	return &natsserver.Permissions{
		Publish:   &natsserver.SubjectPermission{Allow: append(fill(u.Publish, uuid), announceSubject)},
		Subscribe: &natsserver.SubjectPermission{Allow: append(fill(u.Subscribe, uuid), discoverSubject, InboxPrefix(name)+".>")},
		// A question may have many answers: one for each instance of an app.
		Response: &natsserver.ResponsePermission{MaxMsgs: -1, Expires: time.Duration(u.AnswerSeconds * float64(time.Second))},
	}
}

// InboxPrefix begins the subjects on which a user gets its answers. The base of
// components has it too (jobs/component).
func InboxPrefix(user string) string { return "_INBOX_component." + user }

// fill puts the uuid into subjects. Those that need one are left out without it.
func fill(subjects []string, uuid string) []string {
	var filled []string
	for _, subject := range subjects {
		if strings.Contains(subject, uuidToken) {
			if uuid == "" {
				continue
			}
			subject = strings.ReplaceAll(subject, uuidToken, uuid)
		}
		filled = append(filled, subject)
	}
	return filled
}
