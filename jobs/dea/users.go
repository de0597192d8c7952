package dea

import (
	"errors"
	"sync"
)

// Users are given to instances from firstUser on, as in the original, and each
// DEA of a group has a thousand of its own.
const (
	firstUser   = 22000
	usersPerDEA = 1000
)

// users gives each instance a user that no other has.
type users struct {
	first int
	mu    sync.Mutex
	taken map[int]bool
}

func newUsers(index *int) *users {
	u := &users{first: firstUser, taken: map[int]bool{}}
	if index != nil && *index > 0 {
		u.first += *index % 40 * usersPerDEA
	}
	return u
}

func (u *users) take() (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for uid := u.first; uid < u.first+usersPerDEA; uid++ {
		if !u.taken[uid] {
			u.taken[uid] = true
			return uid, nil
		}
	}
	return 0, errors.New("no user is left for another instance")
}

// use notes that an instance of an earlier run has this user.
func (u *users) use(uid int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.taken[uid] = true
}

func (u *users) release(uid int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.taken, uid)
}
