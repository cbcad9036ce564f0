"""What a user does with the library: collect, train, evaluate, plan. One settings type each."""
